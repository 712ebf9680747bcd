"""The function of a handler of this connector."""

from pathlib import Path

from nsps.connector.load import load_connector
from nsps.connector.serve import serve

main = serve(load_connector(Path(__file__).parent))

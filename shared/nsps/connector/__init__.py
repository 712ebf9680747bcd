"""The kit a connector is written with: subclass a kind, and ``main = serve(MyConnector)``."""

"""The console's pages: HTML made from the answers of the JSON API, for people with a browser."""

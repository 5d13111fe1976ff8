"""What tests of several modules use: servers, a database, a browser."""

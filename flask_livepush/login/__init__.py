"""Logins: whose a connection is, and how long it is theirs.

The only place that knows Flask-Login. Nothing in here decides who may join a room.
"""

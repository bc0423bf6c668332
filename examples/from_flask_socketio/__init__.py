"""One chat written twice: with Flask-SocketIO in before.py, with juggler in app.py and callees.py."""

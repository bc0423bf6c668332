"""Orders in a database, with a SQLAlchemy session around each call that knows the customer."""

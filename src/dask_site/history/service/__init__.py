"""The service that keeps the history of a site and answers for it."""

"""Why workers die, which task is to blame, and what happens to it next."""

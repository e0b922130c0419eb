"""Who gives schema ids: the committed lock file or a schema registry; and what a log remembers of them."""

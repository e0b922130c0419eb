"""Views, the query API and what people look at; built from the log, rebuilt at any time."""

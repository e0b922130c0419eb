"""Event models, Avro schemas, codec, envelope, topics and errors; imports no other room."""

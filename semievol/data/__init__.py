"""Files and rows: storage by URI, readers, Arrow tables, row ids, validation."""

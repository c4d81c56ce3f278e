"""The ledger's engines alone, beside what people would use instead."""

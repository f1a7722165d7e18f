"""The way from text to token ids and read-outs. Only this package imports tokenizers."""

"""Text to token ids and read-outs. The only room that imports tokenizers."""

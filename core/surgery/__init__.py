"""Cut a copy of an encoder: slicing verbs, reconstruction of what is left, tokenizers, masks."""

"""Bytes between sites: framed, resumable, authenticated transport (`transport`), and codecs on buffers."""

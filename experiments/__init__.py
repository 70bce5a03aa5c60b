"""One file a result: its configuration, the command that makes it, and the number it made."""

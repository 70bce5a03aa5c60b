"""Tools that make files of other files: model cards and soft labels."""

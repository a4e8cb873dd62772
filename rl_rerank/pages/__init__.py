"""What self-contained pages share: figures and style."""

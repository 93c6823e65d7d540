"""Our ops under the names by which existing code imports such ops."""

from fastgen.compat.stylegan import Installation, install_stylegan_ops

__all__ = ["Installation", "install_stylegan_ops"]

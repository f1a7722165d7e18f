"""The commands of `rfprm`, one a file."""

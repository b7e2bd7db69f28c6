"""The subcommands, one module each; none imports anything slow before it runs."""

"""The command line: one file a group of commands, thin; heavy imports happen inside the commands."""

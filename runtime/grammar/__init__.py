"""What answers may be: grammars, and which tokens they leave at each place."""

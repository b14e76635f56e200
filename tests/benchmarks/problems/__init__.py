"""The problems: plain scripts of the public interface, each a function that yields rows."""

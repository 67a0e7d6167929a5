"""Views: plain data for people, built from state; nothing here draws."""

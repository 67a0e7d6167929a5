"""Pages: HTML for people, drawn from the same plain data that the JSON views show. Only draws; asks nobody."""

"""Reports: HTML pages of one file each, with Jinja2 for the page and Altair for its charts."""

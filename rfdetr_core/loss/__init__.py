"""What training minimises: queries are matched with objects, and each matched pair is scored."""

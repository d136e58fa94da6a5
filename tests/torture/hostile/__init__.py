"""What hostile bytes may lead to: right values, or a documented error; and who looks at a live segment meanwhile."""

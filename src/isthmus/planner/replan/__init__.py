"""A running plan and an event -> what to do about it, with the price of each answer."""

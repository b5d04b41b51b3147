"""What a test asks for: frozen values that are valid as soon as they exist. No effects."""

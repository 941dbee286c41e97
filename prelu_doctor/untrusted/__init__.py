"""What a file from anywhere claims, looked at before anything is made of it."""

"""The whole loop on data that the project makes itself."""

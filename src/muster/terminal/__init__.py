"""What commands look like and print, the same for the service and for the edge runtime."""

"""What this device says to the provisioning service and the hub. `base` says what others see."""

"""Worker processes, interruptions, and the devices that they compute on."""

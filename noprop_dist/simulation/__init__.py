"""The whole engine in one thread, on virtual time. Ray, disk and clock are made up; all else is what ships."""

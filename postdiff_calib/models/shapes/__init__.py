"""The embedded model ``shapes``: its world, its networks, and the recipe that trains what ships."""

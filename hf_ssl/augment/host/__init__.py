"""Views as 8 bit images on the CPU: every operation through OpenCV, image by image, in the loader's threads."""

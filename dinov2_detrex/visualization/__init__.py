"""What data and detections look like: sheets of images with boxes, figures and statistics of a data set."""

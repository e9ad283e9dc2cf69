"""DINOv2 in detectron2 and detrex: train detectors, use them, look at data and costs."""

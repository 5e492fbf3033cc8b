"""`groundhog detect`: boxes and pictures for a few images, without a plan or a data set."""

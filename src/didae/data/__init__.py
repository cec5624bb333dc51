"""Images and what is known of them: whatever holds images becomes an `ImageTable`."""

from didae.data.cutouts import Cutouts as Cutouts
from didae.data.opening import open_images as open_images

"""Images and what is known of them: Square, tables of image files, confounded subsets."""

"""What `sf-healer doctor` looks at: one module for each side, each giving findings. Nothing here mends anything."""

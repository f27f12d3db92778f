"""Who is who: tokens of instances, and the seal that proves a container to be ours."""

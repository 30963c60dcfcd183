"""The page where people look for pictures: Streamlit on top of `sentinel_client`, nothing else."""

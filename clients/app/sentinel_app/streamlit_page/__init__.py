"""The original search page, on Streamlit: `sentinel-app --streamlit`. It has sign-in."""

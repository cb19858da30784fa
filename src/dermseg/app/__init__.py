"""The web app: images in, outlines out, with how sure they are; in Streamlit."""

from dermseg.app.launch import BUNDLES as BUNDLES
from dermseg.app.launch import run as run

"""A Gradio app of published or local models, as the folder of a Space."""

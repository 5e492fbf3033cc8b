"""The review page: `groundhog browse serve`. `serve.py` starts it, `app.py` answers it, `page/` is the page itself."""

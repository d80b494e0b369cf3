"""An HTTP service around a loaded model: post a job, follow it, fetch the result (extra `serve`)."""

"""Client of the HTTP API: `Client` for ordinary programs, `AsyncClient` for asyncio.

```python
from imgsvc.client import Client

with Client("http://127.0.0.1:8080") as client:
    accepted = client.upload("products.csv", quality="40%")
    status = client.wait(accepted["requestId"])
    client.download_table(accepted["requestId"], "products-compressed.csv", layout="input")
```

All methods raise `ServiceError`. `imgsvc.client.types` has the types of options and results.
"""

from imgsvc.client.asynchronous import AsyncClient, ServiceError
from imgsvc.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "ServiceError"]
